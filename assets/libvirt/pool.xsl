<?xml version="1.0"?>
<!-- The pool's directory: QEMU may pass through it, only its owner may list it. -->
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output omit-xml-declaration="yes" indent="no"/>
  <xsl:template match="@*|node()"><xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy></xsl:template>
  <xsl:template match="/pool/target">
    <xsl:copy><xsl:apply-templates select="path"/><permissions><mode>0711</mode></permissions></xsl:copy>
  </xsl:template>
</xsl:stylesheet>
